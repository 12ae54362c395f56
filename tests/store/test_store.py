"""Real clients against the hub of the tests, and against the store's routes.

INGLE_HUB   the hub's program (cargo build -p ingle-testkit --example hub)
INGLE_BIN   the program `ingle`

Both are started here, on free ports of loopback. Needs: pytest, huggingface_hub, ollama.
"""

import hashlib
import json
import os
import socket
import subprocess
import time

import pytest

HUB, INGLE = os.environ["INGLE_HUB"], os.environ.get("INGLE_BIN")
MODEL = os.environ.get("INGLE_GGUF", os.path.join(os.path.dirname(__file__), "../../models/ingle-tiny.gguf"))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("repo")
    (folder / "README.md").write_text("# tiny")
    (folder / "LICENSE").write_text("MIT")
    (folder / "sub").mkdir()
    (folder / "sub" / "notes.txt").write_text("notes")
    with open(MODEL, "rb") as model:
        (folder / "tiny-Q4_K_M.gguf").write_bytes(model.read())
    return folder


@pytest.fixture(scope="module")
def hub(files):
    args = [HUB, "--repo", f"maker/tiny-GGUF={files}", "--repo", f"maker/gated={files}", "--gate", "maker/gated=hf_right"]
    process = subprocess.Popen(args, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    yield json.loads(process.stdout.readline())["hub"]
    process.stdin.close()
    process.wait(10)


def sha256(path):
    return hashlib.sha256(open(path, "rb").read()).hexdigest()


def test_the_hubs_own_client_takes_it_for_a_hub(hub, files, tmp_path):
    from huggingface_hub import HfApi, hf_hub_download, snapshot_download

    api = HfApi(endpoint=hub)
    info = api.model_info("maker/tiny-GGUF", files_metadata=True)
    sizes = {file.rfilename: (file.size, file.lfs and file.lfs.sha256) for file in info.siblings}
    model = files / "tiny-Q4_K_M.gguf"
    assert sizes["tiny-Q4_K_M.gguf"] == (model.stat().st_size, sha256(model))
    assert {entry.path for entry in api.list_repo_tree("maker/tiny-GGUF", recursive=True)} == {
        "LICENSE", "README.md", "sub/notes.txt", "tiny-Q4_K_M.gguf"}
    for name in ["README.md", "tiny-Q4_K_M.gguf", "sub/notes.txt"]:
        path = hf_hub_download("maker/tiny-GGUF", name, endpoint=hub, cache_dir=tmp_path / "cache")
        assert sha256(path) == sha256(files / name)
        assert info.sha in path
    folder = snapshot_download("maker/tiny-GGUF", endpoint=hub, cache_dir=tmp_path / "snapshot", revision=info.sha)
    assert sha256(os.path.join(folder, "tiny-Q4_K_M.gguf")) == sha256(model)


def test_its_errors_are_those_of_a_hub(hub, tmp_path):
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError, GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError)

    def download(repo, name="README.md", **more):
        return hf_hub_download(repo, name, endpoint=hub, cache_dir=tmp_path / "cache", **more)

    with pytest.raises(GatedRepoError):
        download("maker/gated", token=False)
    with pytest.raises(RepositoryNotFoundError):
        download("maker/absent", token=False)
    with pytest.raises(EntryNotFoundError):
        download("maker/tiny-GGUF", "absent.txt")
    with pytest.raises(RevisionNotFoundError):
        download("maker/tiny-GGUF", revision="absent")
    assert open(download("maker/gated", token="hf_right")).read() == "# tiny"
    assert HfApi(endpoint=hub, token="hf_right").whoami()["name"] == "tester"


@pytest.fixture(scope="module")
def server(hub, tmp_path_factory):
    if not INGLE:
        pytest.skip("INGLE_BIN is not set")
    home = tmp_path_factory.mktemp("home")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {**os.environ, "HOME": str(home), "XDG_DATA_HOME": str(home), "XDG_CONFIG_HOME": str(home), "HF_ENDPOINT": hub,
           "INGLE_MODELS": str(home / "models"), "INGLE_PRIVATE_HOSTS": "127.0.0.1"}
    process = subprocess.Popen([INGLE, "serve", "--port", str(port)], env=env)
    url = f"http://127.0.0.1:{port}"
    for _ in range(300):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        except OSError:
            time.sleep(0.1)
    yield url, hub.removeprefix("http://"), env
    process.terminate()
    process.wait(60)


def test_ollamas_client_pulls_pushes_and_uploads(server, files, tmp_path):
    import ollama

    url, registry, _ = server
    client = ollama.Client(url)
    name = "hf.co/maker/tiny-GGUF:Q4_K_M"
    lines = list(client.pull(name, stream=True))
    assert lines[0].status == "pulling manifest" and lines[-1].status == "success"
    model = files / "tiny-Q4_K_M.gguf"
    totals = [line for line in lines if line.digest == f"sha256:{sha256(model)}"]
    assert totals and all(line.total == model.stat().st_size for line in totals)
    assert client.pull(name).status == "success"
    assert name in [entry.model for entry in client.list().models]
    with pytest.raises(ollama.ResponseError, match="absent"):
        client.pull("hf.co/maker/absent")
    with pytest.raises(ollama.ResponseError, match="path"):
        client.pull("/etc/passwd.gguf")
    client.copy(name, f"{registry}/team/pushed:v1")
    assert client.push(f"{registry}/team/pushed:v1").status == "success"
    upload = tmp_path / "blob"
    upload.write_bytes(os.urandom(3_000_000))
    assert client.create_blob(upload) == f"sha256:{sha256(upload)}"


def test_nodes_fetch_from_each_other(server, files, tmp_path):
    url, _, env = server
    env = {**env, "INGLE_MODELS": str(tmp_path / "other"), "HOME": str(tmp_path)}
    args = [INGLE, "pull", "--json", "--peer", url, "hf.co/maker/tiny-GGUF:Q4_K_M"]
    run = subprocess.run(args, env=env, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    last = json.loads(run.stdout.splitlines()[-1])
    assert last["from_peers"] >= (files / "tiny-Q4_K_M.gguf").stat().st_size
