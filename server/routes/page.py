"""GET / and the three files that the search page is made of; read once, when the app is made."""

from pathlib import Path

from fastapi import APIRouter, Response

FOLDER = Path(__file__).parent.parent / "page"

FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/page/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page/icon.svg": ("icon.svg", "image/svg+xml"),
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
