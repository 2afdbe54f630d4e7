"""How much the service takes."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class Limits:
    """How much the service takes; what is more is refused.

    Attributes:
        max_bytes: Of a request.
        max_pixels: Of an image.
        max_characters: Of a post's text or words, and of each of its contexts.
        max_posts: Of a request.
        max_images: Of a post.
        max_waiting: Posts that wait for the model; more are answered 503.
        timeout: Seconds for a request, from its first byte to its answer.
    """

    max_bytes: int = 20_000_000
    max_pixels: int = 40_000_000
    max_characters: int = 20_000
    max_posts: int = 64
    max_images: int = 8
    max_waiting: int = 1024
    timeout: float = 30.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not value > 0:
                raise ValueError(f"Expected `{field.name}` to be above 0, but got {value}")
