"""serve: verdicts over HTTP."""

import ipaddress
import socket

from skanomaly.cli._model_files import add_detector, load_detector
from skanomaly.cli._monitor_options import add_monitor, make_monitor
from skanomaly.cli._printing import print_note

HOST, PORT = "127.0.0.1", 8765
MAX_MEGABYTES = MAX_MEGAPIXELS = 100
_GRACE_SECONDS = 30  # that running requests have when the service is to end

SUMMARY = "predict images that are sent over HTTP"
DESCRIPTION = """\
Load a detector once and answer requests over HTTP until Ctrl-C or SIGTERM: images in,
verdicts, scores, regions and heat maps out. Needs pip install "skanomaly[serve]".
"""
EPILOG = """\
examples:
  skanomaly serve my_part.skanomaly
  curl --data-binary @one.png http://127.0.0.1:8765/score
  curl -F image=@one.png "http://127.0.0.1:8765/score?map=true"
  curl --data-binary @one.png http://127.0.0.1:8765/map -o map.png
  curl http://127.0.0.1:8765/health

POST /score, with an image file as the body or as the one file of a form, answers with
JSON: name, score, verdict and regions as inspect --json has them; with ?map=true also
map_png, the heat map as PNG in base64; with --monitor also drift, null or "lower" or
"higher" if this image raised an alarm. POST /map answers with the heat map alone. GET
/health counts images and errors. Errors are JSON as well: {"error": ...}, with status 400
for a file that is no image or not one for this detector, and 413 for one that is too large.

The service has no password: it listens on this machine alone unless --host says
otherwise. Put a web server in front of it where others are to reach it.

exit codes: 0 ended by Ctrl-C or SIGTERM, after the requests that were running; 2 an error.
"""


def add_arguments(parser):
    add_detector(parser)
    parser.add_argument("--host", default=HOST, help="address to listen on (default: %(default)s)")
    parser.add_argument(
        "--port", type=int, default=PORT, help="default: %(default)s; 0: any free one, printed"
    )
    parser.add_argument(
        "--threads", type=int, help="images scored at a time (default: one per processor, up to 4)"
    )
    parser.add_argument(
        "--max-megabytes",
        type=float,
        default=MAX_MEGABYTES,
        help="size above which an upload is refused (default: %(default)s)",
    )
    parser.add_argument(
        "--max-megapixels",
        type=float,
        default=MAX_MEGAPIXELS,
        help="size above which an image is refused before it is decoded (default: %(default)s)",
    )
    add_monitor(parser)


def run(options):
    """Listen first, so that a port in use is known at once; then load and serve."""
    from skanomaly.images import pixel_limit, set_pixel_limit

    if not 0 < options.max_megapixels < float("inf"):
        raise ValueError(
            f"--max-megapixels must be above 0 and finite, got {options.max_megapixels:g}"
        )
    with listen(options.host, options.port) as sock:
        server = make_server(options)
        before = pixel_limit()
        set_pixel_limit(round(options.max_megapixels * 1e6))
        host, port = sock.getsockname()[:2]
        print(f"{options.detector} on http://{_in_url(host)}:{port}, Ctrl-C ends it", flush=True)
        if not ipaddress.ip_address(host).is_loopback:
            print_note(f"all who can reach {host} can send images; there is no password")
        try:
            server.run(sockets=[sock])
        except KeyboardInterrupt:  # how the server passes on the signal that has ended it
            pass
        finally:
            set_pixel_limit(before)
    return 0


def listen(host, port):
    """A socket that listens; OSError in words where it cannot."""
    if not 0 <= port < 2**16:
        raise ValueError(f"--port must be from 0 to 65535, got {port}")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise OSError(
            f"{host}:{port}: cannot listen there ({error}); choose another port with --port, or 0 "
            "for any free one, or another address with --host"
        ) from error


def make_server(options):
    """The server with the detector, not running yet."""
    try:
        import uvicorn
    except ImportError as error:
        raise ImportError(
            f'serve needs uvicorn ({error}); install it with: pip install "skanomaly[serve]"'
        ) from error
    from skanomaly.service import make_app

    model = load_detector(options.detector, options.trust_pickle)
    app = make_app(
        model,
        max_megabytes=options.max_megabytes,
        n_threads=options.threads,
        monitor=make_monitor(options, model, model.oof_scores_),
        name=options.detector.name,
    )
    return uvicorn.Server(
        uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            ws="none",
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
    )


def _in_url(host):
    return f"[{host}]" if ":" in host else host
