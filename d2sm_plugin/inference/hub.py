"""Weights on the Hugging Face hub."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download

from d2sm_plugin.errors import CheckpointError


def download(repository: str, file: str, revision: str | None = None) -> Path:
    """Return the path of a file of a repository, in the hub's cache.

    Raises:
        CheckpointError: when it cannot be had.
    """
    try:
        return Path(hf_hub_download(repository, file, revision=revision))
    except Exception as error:  # of the network, of the hub, of a wrong name
        raise CheckpointError(
            f"{repository}: cannot fetch {file} from the hub ({_reason(error)}); check the name, or give the path of "
            f"a file"
        ) from error


def upload(save: Callable[[Path], None], repository: str, file: str, private: bool) -> str:
    """Upload a weight file into a repository, which is made if need be, and return the repository's URL.

    Args:
        save: writes the file to a path.
        repository: ``"user/name"``.
        file: name there.
        private: of a repository that is made.

    Raises:
        CheckpointError: when it cannot be uploaded.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, Path(file).name)
        save(path)
        try:
            hub = HfApi()
            url = hub.create_repo(repository, private=private, exist_ok=True)
            hub.upload_file(path_or_fileobj=path, path_in_repo=file, repo_id=repository)
        except Exception as error:  # of the network, of the hub, for want of a login
            raise CheckpointError(
                f"{repository}: cannot upload {file} to the hub ({_reason(error)}); log in with: hf auth login"
            ) from error
    return str(url)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
