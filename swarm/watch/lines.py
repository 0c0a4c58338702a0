"""Lists of styled lines that scroll, and write to the terminal only the lines that changed.

Textual's own table redraws all of itself for one cell, and cannot have text across its columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import ClassVar

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from swarm.watch.cells import Line

_ELLIPSIS = Segment("…")
_ASIDE = 8


@lru_cache(maxsize=256)
def _style(words: str) -> Style:
    return Style.parse(words)


class Lines(ScrollView, can_focus=True):
    """Lines under a heading."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"lines--heading"}

    def __init__(self, heading: Line = (), **named: str) -> None:
        super().__init__(**named)  # type: ignore[arg-type]  # id and classes
        self._looks: dict[str, Style] = {}
        self.heading = heading
        self.lines: tuple[Line, ...] = ()

    def show(self, lines: Sequence[Line], heading: Line | None = None) -> None:
        """Replace the lines; what stays as it was is not drawn again."""
        before, after = self.lines, tuple(lines)
        if heading is not None and heading != self.heading:
            self.heading = heading
            self.refresh(Region(0, 0, self.size.width, self._above))
        if before == after:
            return
        self.lines = after
        self._measure()
        if len(before) != len(after):
            self.refresh()
        else:
            top = round(self.scroll_y)
            for number in range(top, min(len(after), top + self.size.height)):
                if before[number] != after[number]:
                    self.refresh_row(number)

    def refresh_row(self, number: int) -> None:
        """Draw a line again, if it is seen."""
        row = number - round(self.scroll_y) + self._above
        if self._above <= row < self.size.height:
            self.refresh(Region(0, row, self.size.width, 1))

    def action_scroll_left(self) -> None:
        self.scroll_relative(x=-_ASIDE, animate=False)

    def action_scroll_right(self) -> None:
        self.scroll_relative(x=_ASIDE, animate=False)

    def render_line(self, y: int) -> Strip:
        if y < self._above:
            return self._drawn(self.heading, self.look("lines--heading"))
        number = y - self._above + round(self.scroll_y)
        if number >= len(self.lines):
            return Strip.blank(self.size.width, self.look())
        return self._drawn(self.lines[number], self.style_of(number))

    def style_of(self, number: int) -> Style:
        """What the line is drawn on."""
        return self.look()

    def look(self, part: str = "") -> Style:
        """The style of a part; to work it out takes longer than to draw a line."""
        if part not in self._looks:
            self._looks[part] = self.get_component_rich_style(part) if part else self.rich_style
        return self._looks[part]

    def notify_style_update(self) -> None:
        self._looks.clear()
        super().notify_style_update()

    @property
    def _above(self) -> int:
        return 1 if self.heading else 0

    def _measure(self) -> None:
        """Say how far there is to scroll.

        Textual would lay the whole screen out again whenever that changes, which only matters
        where a scrollbar comes or goes, or the height is that of the lines.
        """
        widest = max((_width(line) for line in (self.heading, *self.lines)), default=0)
        before, height = self.virtual_size.height, len(self.lines) + self._above
        self.set_reactive(ScrollView.virtual_size, Size(widest, height))
        needs_bar = height > self.size.height
        grows = height != before and self.styles.auto_dimensions
        if grows or needs_bar != self.show_vertical_scrollbar:
            self.refresh(layout=True)
        elif needs_bar:
            self.vertical_scrollbar.window_virtual_size = height
        if self.scroll_y > self.max_scroll_y:
            self.scroll_end(animate=False)

    def _drawn(self, line: Line, base: Style) -> Strip:
        """The part of a line that is seen; where there is more of it to the right, an ellipsis."""
        width, left = self.scrollable_content_region.width, round(self.scroll_x)
        strip = Strip([Segment(text, _style(words)) for text, words in line])
        if strip.cell_length > left + width:
            strip = Strip([*strip.crop(left, left + width - 1), _ELLIPSIS])
        else:
            strip = strip.crop(left)
        return strip.adjust_cell_length(width).apply_style(base)


@lru_cache(maxsize=2048)
def _width(line: Line) -> int:
    return sum(cell_len(text) for text, _ in line)


class Tail(Lines):
    """Lines of which the last are seen, unless somebody has scrolled up."""

    _height = 0

    def show(self, lines: Sequence[Line], heading: Line | None = None) -> None:
        was_at_end = self.scroll_y >= self.max_scroll_y
        super().show(lines, heading)
        if was_at_end:
            self.scroll_end(animate=False)

    def on_resize(self) -> None:
        if self.scroll_y + self._height >= self.virtual_size.height:
            self.scroll_end(animate=False)
        self._height = self.size.height


class Choices(Lines):
    """Lines of which one is chosen; each has a name, which the choice sticks to."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"lines--cursor"}
    BINDINGS: ClassVar[list[BindingType]] = [Binding("enter", "open", "Open", show=False)]

    class Said(Message):
        """Something was done to the list."""

        def __init__(self, choices: Choices) -> None:
            super().__init__()
            self.choices = choices

        @property
        def control(self) -> Choices:
            return self.choices

    class Moved(Said):
        """Another line is chosen."""

    class Opened(Said):
        """Somebody wants to see more of the line that is chosen."""

    def __init__(self, heading: Line = (), **named: str) -> None:
        super().__init__(heading, **named)
        self._names: tuple[str, ...] = ()
        self._cursor = 0

    @property
    def chosen(self) -> str:
        """The name of the chosen line; empty where there are none."""
        return self._names[self._cursor] if self._names else ""

    def offer(self, named: dict[str, Line]) -> None:
        """Show these lines. Who has not moved from the first line stays at the first."""
        chosen, cursor, was_seen = self.chosen, self._cursor, self._sees_choice
        self._names = tuple(named)
        if cursor and chosen in named:
            self._cursor = self._names.index(chosen)
        else:
            self._cursor = max(0, min(cursor, len(named) - 1))
        self.show(tuple(named.values()))
        if self._cursor != cursor:
            self.refresh()
        if was_seen:
            self._reveal()
        if self.chosen != chosen:
            self.post_message(self.Moved(self))

    def style_of(self, number: int) -> Style:
        if number != self._cursor:
            return self.look()
        return self.look("lines--cursor")

    def move(self, to: int) -> None:
        """Choose the line with this number, or the nearest there is."""
        before, self._cursor = self._cursor, max(0, min(to, len(self._names) - 1))
        if before == self._cursor:
            return
        self.refresh_row(before)
        self.refresh_row(self._cursor)
        self._reveal()
        self.post_message(self.Moved(self))

    def _reveal(self) -> None:
        """Scroll to the chosen line, if it is not seen."""
        if not self._sees_choice:
            above = self._cursor < round(self.scroll_y)
            y = self._cursor if above else self._cursor - self._page + 1
            self.scroll_to(y=y, animate=False, force=True)

    @property
    def _sees_choice(self) -> bool:
        return 0 <= self._cursor - round(self.scroll_y) < self._page

    def on_resize(self) -> None:
        self._reveal()

    @property
    def _page(self) -> int:
        return max(1, self.size.height - self._above)

    def action_scroll_up(self) -> None:
        self.move(self._cursor - 1)

    def action_scroll_down(self) -> None:
        self.move(self._cursor + 1)

    def action_page_up(self) -> None:
        self.move(self._cursor - self._page)

    def action_page_down(self) -> None:
        self.move(self._cursor + self._page)

    def action_scroll_home(self) -> None:
        self.move(0)

    def action_scroll_end(self) -> None:
        self.move(len(self._names) - 1)

    def action_open(self) -> None:
        if self._names:
            self.post_message(self.Opened(self))

    def on_click(self, event: events.Click) -> None:
        number = event.y - self._above + round(self.scroll_y)
        if event.y >= self._above and number < len(self._names):
            self.move(number)
            if event.chain == 2:
                self.action_open()
