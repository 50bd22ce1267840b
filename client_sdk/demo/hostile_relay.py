"""A relay that betrays its users, for the demo to show that they notice: it swaps the node's key config for its own.

What it hands on is a bundle in which everything is genuine but the key that prompts would be encrypted to. Had the
client believed it, this program could read every prompt.
"""

import base64
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.request import urlopen

from ohttp.keyconfig import GatewayKey, KeyRing


def main() -> None:
    """``python -m client_sdk.demo.hostile_relay NODE_URL``: listen on a free port of the loopback interface."""
    node = sys.argv[1]
    own = KeyRing([GatewayKey.generate(1, 0x647A)])

    class Swap(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with urlopen(f"{node}/attestation", timeout=30) as reply:  # noqa: S310 - the demo's own node
                document = json.load(reply)
            document["ohttp_keys"] = base64.b64encode(own.encoded()).decode()
            body = json.dumps(document).encode()
            self.send_response(200)
            self.send_header("content-type", "application/vnd.cloister.evidence+json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Swap)
    print(json.dumps({"event": "listening", "port": server.server_port}), flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
