"""huggingface_hub takes the hub of the tests for a hub, and Ingle uses the cache that it leaves where it stands."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import HfApi, hf_hub_download, scan_cache_dir, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError, GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError)

from hub import WEIGHTS, sha256

REPO, FILE = "maker/tiny-GGUF", "tiny-Q4_K_M.gguf"
NAME = f"hf.co/{REPO}:Q4_K_M"


def test_its_client_takes_it_for_a_hub(hub, files, tmp_path):
    api = HfApi(endpoint=hub.url)
    info = api.model_info(REPO, files_metadata=True)
    sizes = {file.rfilename: (file.size, file.lfs and file.lfs.sha256) for file in info.siblings}
    assert sizes[FILE] == (WEIGHTS.stat().st_size, sha256(WEIGHTS))
    assert {entry.path for entry in api.list_repo_tree(REPO, recursive=True)} == {
        "LICENSE", "README.md", "sub/notes.txt", FILE}
    for name in ["README.md", FILE, "sub/notes.txt"]:
        path = hf_hub_download(REPO, name, endpoint=hub.url, cache_dir=tmp_path / "cache")
        assert sha256(path) == sha256(files / name)
        assert info.sha in path
    folder = snapshot_download(REPO, endpoint=hub.url, cache_dir=tmp_path / "snapshot", revision=info.sha)
    assert sha256(os.path.join(folder, FILE)) == sha256(WEIGHTS)


def test_its_errors_are_those_of_a_hub(hub, tmp_path):
    def download(repo, name="README.md", **more):
        return hf_hub_download(repo, name, endpoint=hub.url, cache_dir=tmp_path / "cache", **more)

    with pytest.raises(GatedRepoError):
        download("maker/gated", token=False)
    with pytest.raises(RepositoryNotFoundError):
        download("maker/absent", token=False)
    with pytest.raises(EntryNotFoundError):
        download(REPO, "absent.txt")
    with pytest.raises(RevisionNotFoundError):
        download(REPO, revision="absent")
    assert Path(download("maker/gated", token="hf_right")).read_text() == "# tiny"
    assert HfApi(endpoint=hub.url, token="hf_right").whoami()["name"] == "tester"


@pytest.fixture(scope="module")
def cache(hub, tmp_path_factory):
    """A home of Hugging Face's tools with one repository in its cache."""
    home = tmp_path_factory.mktemp("hf")
    snapshot_download(REPO, endpoint=hub.url, cache_dir=home / "hub")
    return home


def test_its_cache_is_used_in_place(cache, hub, ingle, tmp_path):
    before = {path: path.lstat().st_mtime_ns for path in cache.rglob("*")}
    in_cache = ("--hf-home", cache)
    [model] = json.loads(ingle("list", "--json", *in_cache))["models"]
    assert (model["name"], model["origin"], model["broken"]) == (NAME, "huggingface", None)
    [file] = json.loads(ingle("show", NAME, "--json", *in_cache))["files"]
    assert file.startswith(str(cache)) and sha256(file) == sha256(WEIGHTS)
    hub.requests()
    answer = ingle("run", "--model", NAME, "--prompt", "Once", "-n", "4", "--offline", *in_cache)
    assert answer.strip() and hub.requests() == [], "nothing is fetched"
    # A model of one's own is made upon it; its files come into the store.
    (tmp_path / "Modelfile").write_text(f"FROM {NAME}\nSYSTEM Be brief.\n")
    ingle("create", "mine", "-f", tmp_path / "Modelfile", *in_cache)
    assert ingle("show", "mine", "--system") == "Be brief.\n"
    assert (tmp_path / "models" / "blobs" / f"sha256-{sha256(WEIGHTS)}").exists()
    assert ingle("verify").strip()
    # The cache is as it was, and still good to the tools that it is for.
    assert {path: path.lstat().st_mtime_ns for path in cache.rglob("*")} == before
    [repo] = scan_cache_dir(cache / "hub").repos
    assert repo.repo_id == REPO and not scan_cache_dir(cache / "hub").warnings


def hf(cache, *args):
    env = {**os.environ, "HF_HUB_CACHE": str(cache / "hub"), "HF_HOME": str(cache), "NO_COLOR": "1"}
    run = subprocess.run([Path(sys.executable).with_name("hf"), *args], env=env, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_what_its_tool_removes_is_gone(cache, ingle):
    assert REPO in hf(cache, "cache", "ls")
    hf(cache, "cache", "rm", f"model/{REPO}", "--yes")
    assert json.loads(ingle("list", "--json", "--hf-home", cache))["models"] == []
    assert "no model of that name" in ingle("show", NAME, "--hf-home", cache, fails=True)


def test_a_token_that_its_tools_saved_is_used(hub, ingle, tmp_path):
    name = "hf.co/maker/gated:Q4_K_M"
    assert "ingle login" in ingle("pull", name, fails=True)
    # As `hf auth login` leaves it.
    (tmp_path / "huggingface").mkdir()
    (tmp_path / "huggingface" / "token").write_text("hf_right")
    ingle("pull", name)
    assert name in ingle("list")
    ingle("rm", name)
    (tmp_path / "huggingface" / "token").unlink()
    # And as `ingle login` saves it: for the hub that is set.
    ingle("login", stdin="hf_right\n")
    ingle("pull", name)
    ingle("logout")
    ingle("rm", name)
    assert "ingle login" in ingle("pull", name, fails=True)
    assert "no credential" in ingle("logout", fails=True)
