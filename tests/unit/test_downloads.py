"""Downloads from servers with odd certificates, from a mirror, and through proxies."""

import functools
import hashlib
import http.server
import ssl
import subprocess
import threading
import traceback
import zipfile

import attrs
import pytest

from stateful_tff.data import DataError, download, grouplens, load_ratings, movielens, releases

CONFIGURATION = """[req]
distinguished_name = d
[d]
[here]
subjectAltName = IP:127.0.0.1
[elsewhere]
subjectAltName = DNS:elsewhere.example
"""


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """A folder with self-signed certificates: sound, expired, and of another name."""
    folder = tmp_path_factory.mktemp("certificates")
    (folder / "c.cnf").write_text(CONFIGURATION)

    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    request = ["req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=here", "-config", "c.cnf"]
    openssl(*request, "-keyout", "c.key", "-out", "c.csr")
    sign = ["x509", "-req", "-in", "c.csr", "-signkey", "c.key", "-extfile", "c.cnf"]
    for name, days, names in (
        ("sound", "2", "here"), ("expired", "-1", "here"), ("elsewhere", "2", "elsewhere")
    ):  # fmt: skip
        openssl(*sign, "-days", days, "-extensions", names, "-out", f"{name}.crt")
    return folder


@pytest.fixture
def official(tmp_path, monkeypatch):
    """A folder with a zip that counts as the official one; downloads see nothing of the outside."""
    folder = tmp_path / "server"
    folder.mkdir()
    with zipfile.ZipFile(folder / "ml-1m.zip", "w") as archive:
        archive.writestr("ml-1m/ratings.dat", "7::42::4::978300760\n")
        archive.writestr("ml-1m/movies.dat", "42::Up (2009)::Comedy\n")
    checksum = f"sha256:{hashlib.sha256((folder / 'ml-1m.zip').read_bytes()).hexdigest()}"
    one = attrs.evolve(releases.RELEASES["ml-1m"], checksum=checksum)
    monkeypatch.setitem(releases.RELEASES, "ml-1m", one)
    monkeypatch.setattr(movielens, "_unreachable", {})
    monkeypatch.setattr(grouplens, "_TIMEOUT", (2, 2))
    monkeypatch.setenv("STATEFUL_TFF_PROGRESS", "0")
    for name in (
        "STATEFUL_TFF_DATA REQUESTS_CA_BUNDLE CURL_CA_BUNDLE HTTP_PROXY HTTPS_PROXY ALL_PROXY "
        "http_proxy https_proxy all_proxy"
    ).split():
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture
def serve(official, monkeypatch):
    """Starts servers of that folder, and names them as the mirror."""
    running = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            self.server.headers = dict(self.headers)
            super().do_GET()

    def start(certificate=None):
        handler = functools.partial(Handler, directory=str(official))
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate, certificate.with_name("c.key"))
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs=dict(poll_interval=0.02))
        thread.start()
        running.append((server, thread))
        scheme = "https" if certificate else "http"
        monkeypatch.setenv("STATEFUL_TFF_MIRROR", f"{scheme}://127.0.0.1:{server.server_port}/")
        return server

    yield start
    for server, thread in running:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize(
    "name, trusted, reason",
    [
        ("expired", True, "has expired"),
        ("expired", False, ""),  # which of its two faults is told first is up to OpenSSL
        ("elsewhere", True, "is for another name"),
        ("sound", False, "is of an unknown issuer"),
    ],
)
def test_a_file_is_known_by_its_checksum_without_a_certificate(
    serve, certificates, official, tmp_path, monkeypatch, capfd, name, trusted, reason
):
    server = serve(certificates / f"{name}.crt")
    if trusted:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificates / f"{name}.crt"))
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    assert load_ratings("auto", cache_dir=tmp_path / "cache").name == "movielens"
    out, err = capfd.readouterr()
    assert out.count("\n") == 1 and err == ""
    assert out.startswith("Notice: the certificate of the server")
    assert reason in out and "SHA-256" in out
    assert "Authorization" not in server.headers
    (official / "ml-1m.zip").write_bytes(b"something else")
    with pytest.raises(DataError, match=r"not the official file.*\(the certificate"):
        download("ml-1m", tmp_path / "another")
    assert not (tmp_path / "another" / "ml-1m.zip").exists()


def test_nothing_is_said_of_a_sound_certificate(serve, certificates, tmp_path, monkeypatch, capfd):
    serve(certificates / "sound.crt")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificates / "sound.crt"))
    assert download("ml-1m", tmp_path / "cache").is_file()
    assert capfd.readouterr() == ("", "")


def test_a_bundle_without_certificates_is_named(serve, certificates, tmp_path, monkeypatch):
    serve(certificates / "sound.crt")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", __file__)
    with pytest.raises(DataError, match="REQUESTS_CA_BUNDLE names .* that cannot be used"):
        download("ml-1m", tmp_path / "cache")


def test_an_md5_is_not_enough_to_do_without_a_certificate(
    serve, certificates, official, tmp_path, monkeypatch
):
    serve(certificates / "expired.crt")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificates / "expired.crt"))
    checksum = f"md5:{hashlib.md5((official / 'ml-1m.zip').read_bytes()).hexdigest()}"
    one = attrs.evolve(releases.RELEASES["ml-1m"], checksum=checksum)
    monkeypatch.setitem(releases.RELEASES, "ml-1m", one)
    with pytest.raises(DataError, match="the certificate of the server has expired; try again"):
        download("ml-1m", tmp_path / "cache")


def test_a_mirror_needs_no_tls_and_its_password_is_shown_nowhere(serve, tmp_path, monkeypatch):
    port = serve().server_port
    assert download("ml-1m", tmp_path / "cache").is_file()
    monkeypatch.setenv("STATEFUL_TFF_MIRROR", f"http://me:secret@127.0.0.1:{port}/no?key=secret")
    with pytest.raises(DataError) as error:
        download("ml-1m", tmp_path / "again")
    shown = "".join(traceback.format_exception(error.value))
    assert "secret" not in shown and "answer 404" in shown


@pytest.mark.parametrize(
    "settings, words",
    [
        (dict(REQUESTS_CA_BUNDLE="/no/bundle.pem"), "REQUESTS_CA_BUNDLE names '/no/bundle.pem'"),
        (dict(CURL_CA_BUNDLE="/no/b.pem"), "CURL_CA_BUNDLE names '/no/b.pem', .* is not there"),
        (dict(https_proxy="http://me:secret@127.0.0.1:1"), "the proxy that HTTPS_PROXY"),
        (dict(https_proxy="socks5://127.0.0.1:1"), "SOCKS"),
        (dict(https_proxy="http://[:1"), "STATEFUL_TFF_DATA"),
        (dict(STATEFUL_TFF_MIRROR="nowhere"), "no address of a server"),
        (dict(STATEFUL_TFF_MIRROR="ftp://127.0.0.1/"), "no address of a server"),
        (dict(STATEFUL_TFF_MIRROR="https://[/"), "no address of a server"),
        (dict(STATEFUL_TFF_MIRROR="https://no.such.host.invalid/"), "not known here"),
        (dict(STATEFUL_TFF_MIRROR="https://127.0.0.1:1/"), "the server refuses it"),
    ],
)
def test_a_failed_download_names_its_cause(official, tmp_path, monkeypatch, settings, words):
    monkeypatch.setenv("STATEFUL_TFF_MIRROR", "https://127.0.0.1:1/")
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(DataError, match=words) as error:
        download("ml-1m", tmp_path / "cache")
    message = str(error.value)
    assert "secret" not in message and "\n" not in message and message.endswith(".")
    assert "cannot store" not in message


@pytest.mark.parametrize("name", ["ml-latest", "ml-2m"])
def test_what_no_checksum_tells_is_not_downloaded(name, tmp_path):
    with pytest.raises(DataError, match="as no checksum tells which file is meant; take ml-1m"):
        download(name, tmp_path)
