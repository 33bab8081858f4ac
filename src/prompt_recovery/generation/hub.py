"""Uploading a finished dataset to the Hugging Face Hub."""

import logging
import os
import re
from pathlib import Path

from prompt_recovery.errors import PromptRecoveryError

log = logging.getLogger(__name__)


def token_for(repo: str) -> str:
    """The token to upload with, from the environment only.

    Raises:
        PromptRecoveryError: there is none, or `repo` is no name of a repository.
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
    """Uploads a dataset's folder, but for its `.work`; a repository that isn't there is made.

    Returns:
        Its address. A new repository is private until its owner says otherwise.

    Raises:
        PromptRecoveryError: it cannot be uploaded.
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
    except Exception as error:  # network, token, rights, name: one thing to a user
        reason = (str(error).splitlines() or [""])[0].replace(token, "…")
        raise PromptRecoveryError(
            f"cannot upload to '{repo}' on the Hugging Face Hub ({type(error).__name__}: {reason}):"
            f" check the network, the name and HF_TOKEN; the dataset itself is whole in {folder}"
        ) from error
    return str(url)
