"""An entry on the Hugging Face Hub, by the package huggingface_hub: its endpoint is HF_ENDPOINT, its token where it keeps its own.

No token passes through here, and nothing that a server answers is printed.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

from filters.pool import hub
from filters.pool.errors import BadInput

WRITING: hub.Answers = {
    401: ("does not know you", hub.LOG_IN),
    403: ("does not let you write there", "take a token that may write, and a repository of yours"),
    404: ("does not find it", "name it USER/NAME, and take a token that may write"),
    429: ("has had enough requests for now", "run again later"),
}


def check_installed() -> None:
    if find_spec("huggingface_hub") is None or find_spec("httpx2") is None:
        raise BadInput("--push", "huggingface_hub is not installed, or an older one", "pip install 'densprune[hub]'")


def push(folder: Path, repository: str, private: tuple[str, ...], quiet: bool) -> None:
    """Put the folder's files, but the private ones, into a model repository, which is made where there is none.

    raises  BadInput when the Hub does not take them
    """
    if quiet:
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"  # heeded where the package is imported after it
    import httpx2
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api, where = HfApi(), f"--push {repository}"
    try:
        api.create_repo(repository, repo_type="model", exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder, commit_message="An entry for DataComp", ignore_patterns=[*private])
    except HfHubHTTPError as error:
        status = error.response.status_code
        fails = BadInput(where, f"the Hub fails (HTTP {status})", "run again later")
        raise hub.refusal(where, status, WRITING) or fails from None
    except (httpx2.HTTPError, OSError, RuntimeError) as error:  # huggingface_hub's own of an upload that fails is a RuntimeError
        raise BadInput(where, f"the Hub is not reached, or breaks off ({type(error).__name__})", "run again later") from None
