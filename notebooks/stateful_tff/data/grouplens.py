"""Downloads of the official MovieLens zips: checked, kept in a cache, never left half done.

Knows nothing of what is in the zips, and nothing of models and TFF.
"""

from __future__ import annotations

import os
from pathlib import Path

import pooch
import requests

from ..progress import progress
from .parsing import RELEASES
from .ratings import DataError

_SERVER = "https://files.grouplens.org/datasets/movielens/"
_TIMEOUT = (4, 15)  # seconds to connect, and seconds without a byte


def download(name: str, cache_dir: str | os.PathLike | None = None) -> Path:
    """Returns the official zip of a release from the cache, downloading it if need be.

    Args:
        name: "ml-1m" or "ml-latest-small".
        cache_dir: where to keep the zip; your system's cache folder when left out.

    Raises:
        DataError: when the server cannot be reached, refuses, stops, or sends something else.
    """
    url, file = f"{_SERVER}{name}.zip", f"{name}.zip"
    cache_dir = Path(cache_dir or pooch.os_cache("stateful_tff"))
    advice = "try again, or set STATEFUL_TFF_DATA to a folder that holds the zip"
    pooch.get_logger().setLevel("WARNING")
    bar = progress(None, f"Downloading {file}", total=1)
    try:
        fetch = pooch.HTTPDownloader(progressbar=bar, timeout=_TIMEOUT)
        checksum = RELEASES[name].checksum
        return Path(pooch.retrieve(url, checksum, file, cache_dir, downloader=fetch))
    except requests.HTTPError as error:
        raise DataError(f"{url}: answer {error.response.status_code}; {advice}.") from error
    except requests.Timeout as error:
        raise DataError(f"{url}: no answer in time; {advice}.") from error
    except requests.RequestException as error:
        raise DataError(f"{url}: the connection failed or broke off; {advice}.") from error
    except ValueError as error:
        raise DataError(f"{url}: not the official file, its checksum differs; {advice}.") from error
    except OSError as error:
        raise DataError(f"{cache_dir}: cannot store {file} ({error.strerror}).") from error
    finally:
        bar.close()
