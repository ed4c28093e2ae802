"""Downloads of the official MovieLens zips: checked, kept in a cache, never left half done.

Knows nothing of what is in the zips, and nothing of models and TFF.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from urllib.parse import urlsplit

import pooch
import requests
import urllib3

from ..checks import shown
from ..progress import progress
from .archives import as_path
from .ratings import DataError
from .releases import RELEASES

_SERVER = "https://files.grouplens.org/datasets/movielens/"
_TIMEOUT = (4, 15)  # seconds to connect, and seconds without a byte
_ADVICE = "try again, or set STATEFUL_TFF_DATA to a folder that holds the zip"
_BUNDLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")  # whose file of certificates is used
_CERTIFICATE = "the certificate of the server"


def download(name: str, cache_dir: str | os.PathLike | None = None) -> Path:
    """Returns the official zip of a release from the cache, downloading it if need be.

    The zip is identified by its SHA-256, so a server whose certificate has expired, or cannot be
    checked, is asked all the same, with a notice. `STATEFUL_TFF_MIRROR` may name the address of
    another server's folder with the same zips.

    Args:
        name: a release, such as "ml-1m" or "ml-latest-small".
        cache_dir: where to keep the zip; your system's cache folder when left out.

    Raises:
        DataError: when there is no such zip to identify, or the server cannot be reached,
            refuses, stops, or sends something else.
    """
    is_known = isinstance(name, str) and name in RELEASES
    checksum = RELEASES[name].checksum if is_known else ""
    if not checksum:
        named = [other for other, release in RELEASES.items() if release.checksum]
        raise DataError(
            f"{shown(name)} cannot be downloaded, as no checksum tells which file is meant; take "
            f"{', '.join(named)}, or set STATEFUL_TFF_DATA to a folder that holds the zip."
        )
    server = os.environ.get("STATEFUL_TFF_MIRROR", "").strip() or _SERVER
    url = f"{server.rstrip('/')}/{name}.zip"
    cache_dir = as_path(pooch.os_cache("stateful_tff") if cache_dir is None else cache_dir)
    cause = None
    try:
        return _fetch(url, checksum, f"{name}.zip", cache_dir)
    except requests.exceptions.SSLError as error:
        cause, reason = error, _cause(error)
    if not reason.startswith(_CERTIFICATE) or not checksum.startswith("sha256:"):
        raise _failure(url, reason) from _told(url, cause)
    print(
        f"Notice: {reason}; {name}.zip is downloaded from {urlsplit(url).hostname} all the same, "
        "and identified by its SHA-256."
    )
    try:
        return _fetch(url, checksum, f"{name}.zip", cache_dir, checked=False)
    except DataError as error:
        raise DataError(f"{str(error).rstrip('.')} ({reason}).") from error.__cause__
    except requests.exceptions.SSLError as error:
        raise _failure(url, _cause(error)) from _told(url, error)


def _fetch(url: str, checksum: str, file: str, cache_dir: Path, checked: bool = True) -> Path:
    """Downloads a file; every failure but one of TLS becomes a `DataError`."""
    pooch.get_logger().setLevel("WARNING")
    bar = progress(None, f"Downloading {file}", total=1)
    # Without a certificate nobody is told a password that .netrc keeps for the server.
    options = {} if checked else dict(verify=False, auth=lambda request: request)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", urllib3.exceptions.InsecureRequestWarning)
            fetch = pooch.HTTPDownloader(progressbar=bar, timeout=_TIMEOUT, **options)
            return Path(pooch.retrieve(url, checksum, file, cache_dir, downloader=fetch))
    except requests.exceptions.SSLError:
        raise
    except requests.HTTPError as error:
        raise _failure(url, f"answer {error.response.status_code}") from _told(url, error)
    except requests.RequestException as error:
        raise _failure(url, _cause(error)) from _told(url, error)
    except ValueError as error:
        words = "this is no address of a server; look at STATEFUL_TFF_MIRROR"
        if "hash" in str(error):
            words = "not the official file, its checksum differs"
        raise _failure(url, words) from _told(url, error)
    except OSError as error:
        if "certificate" in str(error):  # what requests raises over a file that is not there
            raise _failure(url, _bundle()) from _told(url, error)
        words = error.strerror or error
        raise DataError(f"{cache_dir}: cannot store {file} ({words}).") from error
    finally:
        bar.close()


def _failure(url: str, words: str) -> DataError:
    """Makes the error of a download."""
    return DataError(f"{_without_password(url)}: {words}; {_ADVICE}.")


def _told(url: str, error: Exception) -> Exception | None:
    """Returns what the libraries say, unless it may hold a password of the address."""
    return error if _without_password(url) == url else None


def _cause(error: requests.RequestException) -> str:
    """Says in words why a server could not be asked, without the address of a proxy."""
    text = str(error)
    if isinstance(error, requests.exceptions.SSLError):
        if "certificate has expired" in text or "not yet valid" in text:
            fault = "has expired" if "expired" in text else "is not valid yet; look at the clock"
            return f"{_CERTIFICATE} {fault}"
        if "CERTIFICATE_VERIFY_FAILED" in text:
            if "ostname mismatch" in text or "not valid for" in text or "doesn't match" in text:
                return f"{_CERTIFICATE} is for another name"
            return f"{_CERTIFICATE} is of an unknown issuer, as behind a proxy that opens TLS"
        if any(os.environ.get(name) for name in _BUNDLES) and "X509" in text.upper():
            return _bundle()
        return "no secure connection could be made (TLS)"
    if isinstance(error, requests.exceptions.ProxyError | requests.exceptions.InvalidProxyURL):
        return "the proxy that HTTPS_PROXY, HTTP_PROXY or ALL_PROXY names does not let it through"
    if "SOCKS" in text:
        if "Missing dependencies" in text:
            return "a SOCKS proxy is named, and PySocks is not installed; install PySocks"
        return "the SOCKS proxy that is named does not let it through"
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    if isinstance(error, requests.TooManyRedirects):
        return "the server sends in circles"
    if isinstance(error, ValueError):  # requests' InvalidURL, MissingSchema, InvalidSchema, …
        return "this is no address of a server; look at STATEFUL_TFF_MIRROR"
    if "NameResolutionError" in text or "resolve" in text:
        return "the name of the server is not known here, as without a network"
    if "refused" in text:
        return "the connection failed, as the server refuses it"
    return "the connection failed or broke off"


def _bundle() -> str:
    """Says which file of certificates is named and cannot be used."""
    for name in _BUNDLES:
        if os.environ.get(name):
            state = "cannot be used" if Path(os.environ[name]).exists() else "is not there"
            return f"{name} names {os.environ[name]!r}, a file of certificates that {state}"
    return "the file of certificates that Python uses is not there"


def _without_password(url: str) -> str:
    """Returns an address without user, password and query."""
    try:
        parts = urlsplit(url)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()
    except ValueError:
        return "STATEFUL_TFF_MIRROR"
