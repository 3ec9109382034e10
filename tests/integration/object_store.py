"""An object store of this process that speaks as much of S3 as it takes to list, read and write objects."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import BinaryIO
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape


def _unchunked(stream: BinaryIO) -> bytes:
    read = b""
    while size := int(stream.readline().split(b";")[0], 16):
        read += stream.read(size)
        stream.readline()
    while stream.readline().strip():  # checksums
        pass
    return read


class _Requests(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    objects: dict[str, bytes]
    parts: dict[str, dict[int, bytes]]

    def _asked(self) -> tuple[str, dict[str, str]]:
        parts = urlsplit(self.path)
        query = {name: value for name, (value, *_) in parse_qs(parts.query, keep_blank_values=True).items()}
        return unquote(parts.path).lstrip("/"), query

    def _answer(self, code: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(code)
        self.send_header("Content-Length", headers.pop("length", str(len(body))))
        for name, value in {"Last-Modified": "Fri, 01 Jan 2027 00:00:00 GMT", "ETag": '"0"', **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def _read(self) -> bytes:
        is_chunked = "chunked" in self.headers.get("Transfer-Encoding", "")
        body = _unchunked(self.rfile) if is_chunked else self.rfile.read(int(self.headers["Content-Length"] or 0))
        is_chunked_again = "aws-chunked" in self.headers.get("Content-Encoding", "")
        return _unchunked(BytesIO(body)) if is_chunked_again else body

    def do_HEAD(self) -> None:
        key, _ = self._asked()
        if key in self.objects:
            self._answer(200, length=str(len(self.objects[key])))
        else:
            is_bucket = any(name.startswith(f"{key}/") for name in self.objects) and "/" not in key
            self._answer(200 if is_bucket else 404)

    def do_GET(self) -> None:
        key, query = self._asked()
        if "list-type" in query:
            self._answer(200, self._listed(key, query["prefix"]), Content_Type="application/xml")
        elif key in self.objects:
            first, last = self.headers["Range"].removeprefix("bytes=").split("-")
            content = self.objects[key]
            part = content[int(first) : int(last) + 1]
            self._answer(206, part, Content_Range=f"bytes {first}-{int(first) + len(part) - 1}/{len(content)}")
        else:
            self._answer(404)

    def _listed(self, bucket: str, prefix: str) -> bytes:
        start = f"{bucket}/{prefix}"
        below = sorted(key.removeprefix(start) for key in self.objects if key.startswith(start))
        folders = sorted({name.partition("/")[0] for name in below if "/" in name})
        inside = "".join(
            f"<Contents><Key>{escape(prefix + name)}</Key><Size>{len(self.objects[start + name])}</Size>"
            "<LastModified>2027-01-01T00:00:00.000Z</LastModified></Contents>"
            for name in below
            if "/" not in name
        ) + "".join(f"<CommonPrefixes><Prefix>{escape(prefix + one)}/</Prefix></CommonPrefixes>" for one in folders)
        count = f"<KeyCount>{len(below)}</KeyCount><IsTruncated>false</IsTruncated>"
        return f'<?xml version="1.0"?><ListBucketResult>{count}{inside}</ListBucketResult>'.encode()

    def do_PUT(self) -> None:
        key, query = self._asked()
        content = self._read()
        if "partNumber" in query:
            self.parts.setdefault(key, {})[int(query["partNumber"])] = content
        else:
            self.objects[key] = content
        self._answer(200)

    def do_POST(self) -> None:
        key, query = self._asked()
        self._read()
        if "uploads" in query:
            kind, content = "InitiateMultipartUploadResult", "<UploadId>1</UploadId>"
        else:
            kind, content = "CompleteMultipartUploadResult", '<ETag>"0"</ETag>'
            self.objects[key] = b"".join(part for _, part in sorted(self.parts.pop(key).items()))
        self._answer(200, f'<?xml version="1.0"?><{kind}>{content}</{kind}>'.encode(), Content_Type="application/xml")

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@contextmanager
def object_store(objects: dict[str, bytes]) -> Iterator[str]:
    """Serve objects by bucket and key, and give the options of a URI that leads there. What is written joins them."""
    handler = type("Handler", (_Requests,), {"objects": objects, "parts": {}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"?endpoint_override=127.0.0.1:{server.server_port}&scheme=http&region=us-east-1"
    server.shutdown()
    server.server_close()
