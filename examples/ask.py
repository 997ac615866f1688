"""Ask a running service one question: python examples/ask.py http://127.0.0.1:8080 "your query"."""

import sys
import time

import httpx


def wait_until_ready(client: httpx.Client, seconds: float = 120) -> None:
    """Return when /readyz answers 200. Raises TimeoutError."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if client.get("/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise TimeoutError(f"{client.base_url} was not ready within {seconds:g} seconds")


def main(url: str, query: str) -> None:
    """Print the best three documents with the score of each stage."""
    with httpx.Client(base_url=url, timeout=30) as client:
        wait_until_ready(client)
        answer = client.post("/v1/search", json={"query": query, "k": 3}).raise_for_status().json()
    (result,) = answer["results"]
    sys.stdout.write(f"{query}  [{result['status']}, {result['timings']['total']:.1f} ms]\n")
    for hit in result["hits"]:
        scores = ", ".join(f"{stage} {score:.3f}" for stage, score in hit["scores"].items())
        sys.stdout.write(f"  {hit['id']}  {scores}\n")
    if not result["hits"]:
        sys.exit("the service found nothing")


if __name__ == "__main__":
    main(*sys.argv[1:])
