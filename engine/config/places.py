"""What a text that says where data lies may be: a path on this machine, or an address on the web.

webdataset's own opener takes more than that: behind `pipe:` it runs a command in a shell. Such a text is
refused wherever it comes from, and an address wherever nobody at the command line asked for one.
"""

import re

from ..errors import LikenessError

WEB = ("https", "http", "hf", "gs", "htgs", "ais", "s3", "sftp", "ftps", "scp")  # what shards may come over
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")  # two letters at least: C: is a drive


def is_address(text: str) -> bool:
    """Whether the text begins as an address does (https:, pipe:), so that it is no path."""
    return _SCHEME.match(text.strip()) is not None


def check_place(what: str, text: str, web: bool = False) -> None:
    """Refuses commands, and addresses unless `web`; `what` names the setting.

    :raises LikenessError: where the text is neither a path nor an address that is allowed here.
    """
    match = _SCHEME.match(text.strip())
    if match is None:
        return
    scheme = match[1].lower()
    if scheme not in WEB:
        why = "that would run a command" if scheme == "pipe" else f"nothing is read over '{scheme}:'"
        raise LikenessError(
            f"{what} is '{text}': {why}; give a path on this machine (./{text[:40]} if it is one)"
        )
    if not web:
        raise LikenessError(
            f"{what} is '{text}', an address; give a path on this machine, or type --shards-from-web behind "
            "`likeness train masterweaver` (a file or a workflow cannot ask for it)"
        )
