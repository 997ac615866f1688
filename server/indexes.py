"""The indexes in service: one sealed index, or all that lie side by side in a root folder."""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from retriever.errors import InvalidInput, RetrievalError, UnknownIndex
from retriever.index.sealed import Index, Loader, open_index
from server.aliases import Aliases
from server.errors import Refusal
from server.metrics import Metrics
from server.names import is_name
from server.served_index import RETRY_SECONDS, ServedIndex
from server.settings import Settings
from server.shadow import Shadow
from server.writer import Writer

log = logging.getLogger("server.index")

DEFAULT_ALIAS = "default"
BULK_AT_ONCE = 4


class Indexes:
    """Finds indexes by name or alias and opens those that appear in the root folder."""

    def __init__(
        self, settings: Settings, metrics: Metrics, given: Index | None = None, loader: Loader | None = None
    ) -> None:
        """Open `given`, or what the settings name with models from `loader`.

        Raises UnknownIndex, IndexCorrupt or IndexMismatch.

        One faulty index beside others is left out and said so; a faulty default is an error.
        """
        self._settings = settings
        self._metrics = metrics
        self._loader = loader or Loader()
        self._opening = threading.Lock()
        self._open: dict[str, ServedIndex] = {}
        self._writers: dict[str, Writer] = {}
        self._shadows: dict[str, Shadow] = {}
        self.bulk = threading.Semaphore(BULK_AT_ONCE)
        """Held by each body of many documents while it is read."""
        self._failed: dict[str, tuple[RetrievalError, float]] = {}
        self._prepared = False
        self.root: Path | None = None
        self.aliases: Aliases | None = None
        if given is not None or not _is_root(settings.index):
            self._open_single(given or self._open_index(settings.index))
            return
        for part in ("encoder", "sparse_encoder", "local_encoder"):
            if getattr(settings, part) is None:
                continue
            raise InvalidInput(
                f"--{part.replace('_', '-')} names the encoder of one index, and {settings.index} holds several; "
                "serve one of them, or make the encoders available under their own names."
            )
        self.root = settings.index.resolve()
        self.aliases = Aliases(self.root)
        for name in self._on_disk():
            try:
                self._add(name, self._open_index(self.root / name))
            except RetrievalError as error:
                self._fail(name, error)
        self._default = self._default_name()

    def _open_single(self, index: Index) -> None:
        name = index.path.resolve().name
        self._default = name if is_name(name) else "index"
        self._add(self._default, index)

    def _default_name(self) -> str:
        """Return what routes without a name answer from; the alias called default may change it at any time."""
        wanted = self._settings.default_index
        if wanted is None:
            wanted = (
                DEFAULT_ALIAS if DEFAULT_ALIAS in self.all_aliases() else next(iter(self._open or self._failed), "")
            )
        self.find(wanted)
        return wanted

    def _open_index(self, path: Path) -> Index:
        settings = self._settings
        return open_index(
            path,
            encoder=settings.encoder,
            sparse_encoder=settings.sparse_encoder,
            local_encoder=settings.local_encoder,
            device=settings.device,
            offline=settings.offline,
            loader=self._loader,
        )

    def _add(self, name: str, index: Index) -> ServedIndex:
        served = ServedIndex(name, index, self._settings.reranker, self._metrics)
        self._open[name] = served
        self._failed.pop(name, None)
        return served

    def _fail(self, name: str, error: RetrievalError) -> None:
        self._failed[name] = (error, time.monotonic() + RETRY_SECONDS)
        log.error("the index %s cannot be served: %s", name, error)

    def _on_disk(self) -> list[str]:
        assert self.root is not None
        return sorted(path.name for path in self.root.iterdir() if is_name(path.name) and _is_index(path))

    def writer(self, served: ServedIndex) -> Writer:
        """Return what takes changes of an index. Raises Refusal (403) unless the service is writable."""
        found = self._writers.get(served.name)
        if found is None:
            raise Refusal(403, "this service only reads; start it with --writable.", code="read_only")
        return found

    def shadow(self, name: str) -> Shadow | None:
        """Return what compares the index called so with another one, or None."""
        return self._shadows.get(name)

    def set_shadow(self, name: str, shadow: Shadow | None) -> None:
        """Compare an index with another one from now on, or with none."""
        before = self._shadows.pop(name, None)
        if shadow is not None:
            self._shadows[name] = shadow
        if before is not None:
            before.close()

    def find_writer(self, name: str) -> Writer | None:
        """Return what takes changes of the index called so, or None."""
        return self._writers.get(name)

    def _make_ready(self, served: ServedIndex) -> None:
        """Load models, compare canaries and, where the service is writable, apply what was promised earlier."""
        served.prepare()
        if self._settings.writable and served.name not in self._writers:
            writer = Writer(served, self._metrics)
            writer.start()
            self._writers[served.name] = writer

    @property
    def default_name(self) -> str:
        """The name of the index that routes without a name answer from, whether or not there is such an index."""
        return self.all_aliases().get(self._default, self._default)

    @property
    def default(self) -> ServedIndex:
        """The index that routes without a name answer from."""
        return self.find(self._default)

    @property
    def prepared(self) -> bool:
        """Whether models are loaded and the canaries agreed."""
        return self._prepared

    def prepare(self) -> None:
        """Load all models and compare the canaries; does nothing the second time.

        Raises what is wrong with the default index; another that is faulty is left out.
        """
        if self._prepared:
            return
        default = self.default
        self._make_ready(default)
        for name, served in list(self._open.items()):
            if served is default:
                continue
            try:
                self._make_ready(served)
            except RetrievalError as error:
                self._fail(name, error)
                self._open.pop(name).close()
        self._prepared = True

    def all_aliases(self) -> dict[str, str]:
        """Return what each alias stands for; a single index has none."""
        return self.aliases.all() if self.aliases else {}

    def names(self) -> list[str]:
        """Return the names of all indexes, faulty ones included, in order."""
        return sorted({*self._open, *self._failed, *(self._on_disk() if self.root else ())})

    def failure(self, name: str) -> str | None:
        """Return why an index is not served, or None."""
        found = self._failed.get(name)
        return str(found[0]) if found else None

    def get(self, name: str) -> ServedIndex | None:
        """Return the index of that name if it is, or can be, served; None otherwise."""
        try:
            return self.find(name)
        except RetrievalError:
            return None

    def find(self, name: str) -> ServedIndex:
        """Return the index that a name or an alias stands for, ready to answer once the service is.

        Raises UnknownIndex; or what is wrong with the index, found again every RETRY_SECONDS at most.
        """
        target = self.all_aliases().get(name, name)
        served = self._open.get(target)
        if served is not None:
            return served
        if self.root is None or not is_name(target) or not _is_index(self.root / target):
            raise UnknownIndex(f"there is no index {target[:80]!r} here; GET /v1/indexes lists those that are.")
        with self._opening:
            if target in self._open:
                return self._open[target]
            if target in self._failed and time.monotonic() < self._failed[target][1]:
                raise self._failed[target][0]
            try:
                index = self._open_index(self.root / target)
                served = ServedIndex(target, index, self._settings.reranker, self._metrics)
                if self._prepared:
                    self._make_ready(served)
            except RetrievalError as error:
                self._fail(target, error)
                raise
            self._open[target] = served
            self._failed.pop(target, None)
            return served

    def set_alias(self, alias: str, index: str | None) -> str | None:
        """Let an alias stand for an index that can answer, or for nothing; return what it stood for.

        Requests that have begun finish on the old index. Raises UnknownIndex, InvalidInput, or what is wrong with
        the index; the alias stays as it was then.
        """
        if self.aliases is None:
            raise InvalidInput("one index is served, which has no aliases; serve the folder that holds it.")
        if not is_name(alias):
            raise InvalidInput(
                f"an alias has 1 to 64 letters, digits, dots, dashes and underscores and begins with a letter or "
                f"digit, got {alias[:80]!r}."
            )
        if index is None:
            if alias not in self.all_aliases():
                raise UnknownIndex(f"there is no alias {alias!r}; GET /v1/aliases lists those that are.")
            if alias == self._default:
                raise InvalidInput(f"{alias!r} names the default index; point it elsewhere instead of removing it.")
            return self.aliases.set(alias, None)
        if index in self.all_aliases():
            raise InvalidInput(f"{index!r} is an alias itself; name the index that it stands for.")
        if alias in self.names():
            raise InvalidInput(f"there is an index called {alias!r}; choose another name for the alias.")
        self.find(index)
        return self.aliases.set(alias, index)

    def each(self, do: Callable[[ServedIndex], None]) -> None:
        """Do something to every open index."""
        for served in list(self._open.values()):
            do(served)

    def close(self) -> None:
        """Stop taking changes and close all indexes."""
        for writer in self._writers.values():
            writer.close()
        for name in list(self._shadows):
            self.set_shadow(name, None)
        self.each(ServedIndex.close)


def _is_index(path: Path) -> bool:
    # A link could lead out of the root, and would give one index two names.
    return not path.is_symlink() and (path / "CURRENT").is_file()


def _is_root(path: Path) -> bool:
    """Tell whether a folder is no index itself but holds some."""
    if (path / "CURRENT").exists() or (path / "building").is_dir() or not path.is_dir():
        return False
    return any(is_name(child.name) and _is_index(child) for child in path.iterdir())
