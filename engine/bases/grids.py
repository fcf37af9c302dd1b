"""The grids that a U-Net's layers see a picture on: every level halves the latents."""


def grid_of(queries: int, latents: tuple[int, int]) -> tuple[int, int] | None:
    """(h, w) of a layer with so many queries, its network halving latents and rounding up; None: not one."""
    height, width = latents
    while height * width > queries and max(height, width) > 1:
        height, width = -(-height // 2), -(-width // 2)
    return (height, width) if height * width == queries else None
