"""From what a user calls a model to a name that the library finds."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from . import _native
from ._errors import InvalidArgumentError, NotFoundError

_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_SHARD = re.compile(r"-\d{5}-of-\d{5}")


def _in_folder(folder: Path, subfolder: str) -> str:
    found = folder / subfolder
    if not found.is_dir():
        raise NotFoundError(f"{folder}: has no subfolder {subfolder!r}")
    return os.fspath(found)


def _fetch(
    repo: str,
    subfolder: str | None,
    revision: str | None,
    token: str | bool | None,
    cache_dir: str | os.PathLike[str] | None,
    force: bool,
) -> Path:
    """The snapshot of a repo, with the autoencoder's files fetched where they are missing."""
    from huggingface_hub import snapshot_download

    patterns = [f"{subfolder or 'vae'}/*"]
    if subfolder is None:
        patterns += ["config.json", "diffusion_pytorch_model*.safetensors*"]
    return Path(
        snapshot_download(
            repo,
            revision=revision,
            token=token,
            allow_patterns=patterns,
            cache_dir=None if cache_dir is None else Path(cache_dir),
            force_download=force,
        )
    )


def _cached(
    repo: str, revision: str | None, cache_dir: str | os.PathLike[str] | None
) -> Path | None:
    """The snapshot of a repo in the cache, if there is one."""
    home = os.environ.get("HF_HOME") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "huggingface"
    )
    cache = Path(cache_dir or os.environ.get("HF_HUB_CACHE") or os.path.join(home, "hub"))
    folder = cache / f"models--{repo.replace('/', '--')}"
    reference = folder / "refs" / (revision or "main")
    commit = reference.read_text().strip() if reference.is_file() else (revision or "")
    snapshot = folder / "snapshots" / commit
    return snapshot if commit and snapshot.is_dir() else None


def _is_whole(folder: Path, pattern: str = "*") -> bool:
    """True where a folder has weights, all shards of them: a download may have been cut short."""
    try:
        for index in folder.glob(f"{pattern}.safetensors.index.json"):
            shards = json.loads(index.read_text())["weight_map"].values()
            if all((folder / shard).is_file() for shard in shards):
                return True
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return True  # the load that follows says what is wrong with it
    weights = folder.glob(f"{pattern}.safetensors")
    return any(file.is_file() and not _SHARD.search(file.name) for file in weights)


def _known(name: str) -> bool:
    """True where the library finds something of that name, be it sound or not."""
    try:
        _native.Model.load(name, "", False)
    except NotFoundError:
        return False
    except Exception:  # found, and the load that follows will say what is wrong with it
        return True
    return True


def find_model(
    name: str | os.PathLike[str] | None,
    subfolder: str | None,
    *,
    local_files_only: bool,
    revision: str | None,
    token: str | bool | None,
    cache_dir: str | os.PathLike[str] | None = None,
    force_download: bool = False,
) -> str:
    """A name for the library: "" is the embedded model."""
    text = "" if name is None else os.fspath(name)
    if not text:
        if subfolder:
            raise InvalidArgumentError("a subfolder needs the name of a folder or a repo")
        return ""
    if os.path.exists(text):
        return _in_folder(Path(text), subfolder) if subfolder else text
    if not _REPO_ID.fullmatch(text):
        if subfolder:
            raise NotFoundError(f"{text}: there is no such folder, and it is no repo id")
        return text
    snapshot = _cached(text, revision, cache_dir)
    if snapshot is not None and (local_files_only or not force_download):
        if _is_whole(snapshot / (subfolder or "vae")):
            return os.fspath(snapshot / subfolder) if subfolder else os.fspath(snapshot)
        if not subfolder and _is_whole(snapshot, "diffusion_pytorch_model*"):
            return os.fspath(snapshot)
    # "namespace/name" may be an Ollama model too.
    if snapshot is None and cache_dir is None and subfolder in (None, "vae") and _known(text):
        return text
    if local_files_only:
        return _unfetched(text, subfolder, cache_dir)
    try:
        fetched = _fetch(text, subfolder, revision, token, cache_dir, force_download)
    except ImportError:
        return _unfetched(text, subfolder, cache_dir)
    except (OSError, ValueError) as error:  # what huggingface_hub's errors are
        raise NotFoundError(f"{text}: is not in the cache, and fetching it failed: {error}") from error
    return _in_folder(fetched, subfolder) if subfolder else os.fspath(fetched)


def _unfetched(
    repo: str, subfolder: str | None, cache_dir: str | os.PathLike[str] | None
) -> str:
    """The name of a repo that may not be fetched, where the library can say more about it."""
    if subfolder is None and cache_dir is None:
        return repo
    folder = subfolder or "vae"
    raise NotFoundError(
        f"{repo}: its folder {folder} is not, or not whole, in the Hugging Face cache; "
        f"fetch it with: hf download {repo} --include '{folder}/*'"
    )
