"""Uploading a finished dataset to the Hugging Face Hub."""

import logging
import os
import re
from pathlib import Path

from prompt_recovery.errors import PromptRecoveryError

log = logging.getLogger(__name__)


def token_for(repo: str) -> str:
    """Reads the upload token from the environment variable `HF_TOKEN`.

    Raises:
        PromptRecoveryError: If the token is missing or `repo` is not a valid repository name.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise PromptRecoveryError(f"push_to_hub={repo}: must be user/name")
    token = os.environ.get("HF_TOKEN")
    if not token:
        raise PromptRecoveryError(
            f"push_to_hub={repo}: needs a token with write access in the environment, as HF_TOKEN"
        )
    return token


def push(folder: Path, repo: str, token: str) -> str:
    """Uploads a dataset's folder without its `.work`, and creates the repository if necessary.

    Returns:
        URL of the dataset. A new repository is private until its owner changes that.

    Raises:
        PromptRecoveryError: If the upload fails.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    try:
        url = api.create_repo(repo, repo_type="dataset", private=True, exist_ok=True)
        api.upload_folder(
            repo_id=repo,
            repo_type="dataset",
            folder_path=folder,
            ignore_patterns=[".work/**", ".work*"],
            delete_patterns=["data/*.parquet"],
            commit_message="Dataset made with prompt-recovery",
        )
    except Exception as error:  # the network, the token, permissions or the name
        reason = (str(error).splitlines() or [""])[0].replace(token, "…")
        raise PromptRecoveryError(
            f"cannot upload to '{repo}' on the Hugging Face Hub ({type(error).__name__}: {reason}):"
            f" check the network, the name and HF_TOKEN; the dataset itself is complete in {folder}"
        ) from error
    return str(url)
