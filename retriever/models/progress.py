"""A progress bar on standard error, there only when someone can see it."""

import contextlib
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def byte_progress(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar of bytes and give the function that sets how many are done."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(description, total=total)
        yield lambda done: progress.update(task, completed=min(done, total))


@contextlib.contextmanager
def spinner(description: str) -> Iterator[None]:
    """Show that work of unknown length goes on."""
    from rich.console import Console

    console = Console(stderr=True)
    if console.is_terminal:
        with console.status(description):
            yield
    else:
        yield
