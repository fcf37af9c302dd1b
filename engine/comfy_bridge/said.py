"""The line of text in a node, which both renderers of the editor draw and keep."""


def say_in_node(text: str, node_id: str | None) -> None:
    """Shows the text in the node, in place of what stood there, where an editor is open."""
    from server import PromptServer  # only there while ComfyUI serves

    server = getattr(PromptServer, "instance", None)
    if server is not None and node_id is not None:
        server.send_progress_text(text, node_id)


def lasting(seconds: float) -> str:
    """A time in words: `40 s`, `12 min`, `3 h 20 min`."""
    if seconds < 90:
        return f"{max(seconds, 0):.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
