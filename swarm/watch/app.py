"""The program of `swarm watch`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from textual.app import App
from textual.binding import Binding, BindingType

from swarm.watch.observer import Observer
from swarm.watch.overview import Overview


class Watch(App[None]):
    """Shows a swarm until somebody quits."""

    CSS_PATH = "watch.tcss"
    TITLE = "swarm watch"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+c", "quit", show=False, priority=True),
    ]

    def __init__(self, observer: Observer, every: float, environment: Mapping[str, str]) -> None:
        # Without colours Textual would draw in greys, which are colours to NO_COLOR, unless it
        # draws in those of the terminal, which it can then leave out.
        super().__init__(ansi_color="NO_COLOR" in environment)
        self.animation_level = "none"
        self._overview = Overview(observer, every, environment)

    def get_default_screen(self) -> Overview:
        return self._overview
