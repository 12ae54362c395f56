"""Requests that are signed, as Ollama's registry wants them: checked here by another library than the one that signs."""

import base64
import hashlib
import http.server
import json
import threading
import time
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding, NoEncryption, PrivateFormat, PublicFormat, load_ssh_public_key)

from hub import WEIGHTS, Hub

NO_BODY = base64.b64encode(hashlib.sha256(b"").hexdigest().encode()).decode()


class Registry(http.server.ThreadingHTTPServer):
    """A registry that gives one model to whoever signs with this key."""

    def __init__(self, public):
        super().__init__(("127.0.0.1", 0), Handler)
        self.public, self.host, self.seen = public, f"127.0.0.1:{self.server_address[1]}", []
        self.realm = f"http://{self.host}/token"
        content = {"model": WEIGHTS.read_bytes(), "config": b'{"model_format":"gguf","model_family":"llama"}'}
        layer = lambda kind, data: {"mediaType": kind, "size": len(data),
                                    "digest": f"sha256:{hashlib.sha256(data).hexdigest()}"}
        manifest = {"schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
                    "config": layer("application/vnd.docker.container.image.v1+json", content["config"]),
                    "layers": [layer("application/vnd.ollama.image.model", content["model"])]}
        self.blobs = {f"sha256:{hashlib.sha256(data).hexdigest()}": data for data in content.values()}
        self.manifest = json.dumps(manifest).encode()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def is_signed(self, request):
        """Whether a request is signed with the key: public half and signature, parted by a colon."""
        public, _, signature = request.headers.get("Authorization", "").partition(":")
        if f"ssh-ed25519 {public}" != self.public:
            return False
        query = parse_qs(urlsplit(request.path).query)
        signed = f"{request.command},http://{self.host}{request.path},{NO_BODY}".encode()
        try:
            load_ssh_public_key(self.public.encode()).verify(base64.b64decode(signature, validate=True), signed)
        except InvalidSignature:
            return False
        return abs(int(query["ts"][0]) - time.time()) < 60 and len(base64.urlsafe_b64decode(query["nonce"][0] + "==")) == 16


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self):
        registry, path = self.server, urlsplit(self.path).path
        registry.seen.append((path, self.headers.get("Authorization", "")))
        if path == "/token":
            is_good = registry.is_signed(self)
            return self.answer(200 if is_good else 401, json.dumps({"token": "a-token"} if is_good else {}).encode())
        if self.headers.get("Authorization") != "Bearer a-token":
            challenge = f'Bearer realm="{registry.realm}",service="test registry",scope="repository:me/private:pull"'
            return self.answer(401, WWW_Authenticate=challenge)
        if path.startswith("/v2/me/private/manifests/"):
            return self.answer(200, registry.manifest)
        return self.answer(200, registry.blobs[path.rsplit("/", 1)[1]])

    do_HEAD = do_GET


@pytest.fixture
def key(tmp_path):
    """A key as `ssh-keygen` makes it; its file, and its public half."""
    key = Ed25519PrivateKey.generate()
    path = tmp_path / "my_key"
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    path.chmod(0o600)
    return path, key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def test_requests_are_signed(ingle, key):
    path, public = key
    registry = Registry(public)
    name, origin = f"{registry.host}/me/private:v1", f"http://{registry.host}"
    assert "ingle login" in ingle("pull", name, fails=True)
    assert ingle("login", origin, "--key-file", path).strip() == public
    ingle("pull", name)
    assert name in ingle("list")
    # What is signed is the request for a token, and nothing else.
    assert {seen for seen, shown in registry.seen if ":" in shown} == {"/token"}
    ingle("logout", origin)
    ingle("rm", name)
    assert "ingle login" in ingle("pull", name, fails=True)


def test_a_key_is_made_where_there_is_none(ingle, tmp_path):
    told = json.loads(ingle("login", "--key", "--json", "https://registry.example"))
    assert load_ssh_public_key(told["public_key"].encode())
    # It is the same the next time, and for another registry, and one that others cannot read.
    registry = Registry(told["public_key"])
    assert ingle("login", "--key", f"http://{registry.host}").strip() == told["public_key"]
    [made] = [path for path in tmp_path.rglob("id_ed25519")]
    assert made.stat().st_mode & 0o777 == 0o600
    ingle("pull", f"{registry.host}/me/private:v1")


def test_ollamas_own_key_is_taken(ingle, key, tmp_path):
    path, public = key
    (tmp_path / ".ollama").mkdir()
    path.rename(tmp_path / ".ollama" / "id_ed25519")
    registry = Registry(public)
    assert ingle("login", "--key", f"http://{registry.host}").strip() == public
    ingle("pull", f"{registry.host}/me/private:v1")


def test_a_key_that_the_account_does_not_know(ingle, key):
    path, public = key
    registry = Registry("ssh-ed25519 AAAA")
    ingle("login", f"http://{registry.host}", "--key-file", path)
    said = ingle("pull", f"{registry.host}/me/private:v1", fails=True)
    assert public in said and "account" in said


def test_no_other_realm_gets_a_signature(ingle, key):
    path, public = key
    registry, thief = Registry(public), Registry(public)
    registry.realm = thief.realm
    for host in (registry.host, thief.host):
        ingle("login", f"http://{host}", "--key-file", path)
    said = ingle("pull", f"{registry.host}/me/private:v1", fails=True)
    assert "--realm" in said
    assert thief.seen and not any(shown for _, shown in thief.seen)


def test_pushing_is_signed(ingle, key):
    path, public = key
    hub = Hub("--key", public)
    name = f"{hub.registry}/me/pushed:v1"
    ingle("create", name, "-f", "-", stdin=f"FROM {WEIGHTS}\nSYSTEM Be brief.\n")
    assert "ingle login" in ingle("push", name, fails=True)
    ingle("login", hub.url, "--key-file", path)
    ingle("push", name)
    ingle("rm", name)
    ingle("pull", name)
    assert ingle("show", name, "--system") == "Be brief.\n"
    hub.close()
