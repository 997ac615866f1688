"""GET / and the files that the page is made of; read once, when the app is made."""

from pathlib import Path

from fastapi import APIRouter, Response

FOLDER = Path(__file__).parent.parent / "page"

HTML, SCRIPT = "text/html; charset=utf-8", "text/javascript; charset=utf-8"
SCRIPTS = ("page", "answers", "comparison", "dom", "hits", "narrowing", "overview", "service")

FILES = {
    "/": ("index.html", HTML),
    "/page/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page/icon.svg": ("icon.svg", "image/svg+xml"),
    **{f"/page/{name}.js": (f"{name}.js", SCRIPT) for name in SCRIPTS},
}


def page_router() -> APIRouter:
    """Return routes that serve the page from memory."""
    router = APIRouter()
    for path, (name, kind) in FILES.items():
        _add(router, path, (FOLDER / name).read_bytes(), kind)
    return router


def _add(router: APIRouter, path: str, content: bytes, kind: str) -> None:
    async def serve() -> Response:
        return Response(content, media_type=kind, headers={"Cache-Control": "no-cache"})

    router.add_api_route(path, serve, include_in_schema=False)
