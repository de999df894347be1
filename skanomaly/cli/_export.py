"""export: a detector file as an ONNX model."""

from pathlib import Path

from skanomaly.cli._model_files import add_detector, find_images, load_detector

OPSET = 18

SUMMARY = "write a detector as an ONNX model"
DESCRIPTION = """\
Write a detector file as one ONNX model, which onnxruntime, OpenVINO and others run without
skanomaly. It holds resizing, features, the search for the nearest good patches, smoothing
and the image's score. Needs pip install "skanomaly[export]".
"""
EPILOG = """\
examples:
  skanomaly export my_part.skanomaly -o my_part.onnx --images my_part/good

The model takes "images", (n, height, width, channels) uint8, any number of images of the
size of those that --images names. It returns "score_samples", (n,), low for a defect, and
"score_map", (n, height, width), high for a defect. The threshold is not in the model: it
stands in its metadata as "offset", and an image is a defect where its score is below.

The scores and maps of all images that --images names are compared with the detector's own
before the file is written, and the largest relative difference is printed; above 0.001
nothing is written. Exported are filter_bank or a network with patchcore or padim.

exit codes: 0 written, 2 an error: then nothing is written.
"""


def add_arguments(parser):
    add_detector(parser)
    parser.add_argument(
        "-o", "--output", type=Path, required=True, help="file to write, such as my_part.onnx"
    )
    parser.add_argument(
        "--images",
        metavar="IMAGE",
        type=Path,
        nargs="+",
        required=True,
        help="images of the size that the model is to take, or folders of them",
    )
    parser.add_argument(
        "--opset",
        type=int,
        default=OPSET,
        help="version of the ONNX operators (default: %(default)s)",
    )


def run(options):
    """Compare, then write."""
    from skanomaly.export import export_onnx
    from skanomaly.images import image_frame

    model = load_detector(options.detector, options.trust_pickle)
    images = find_images(options.images)
    differences = export_onnx(model, options.output, images, opset=options.opset)
    height, width = image_frame(images[0])
    print(
        f"{options.output}: written, for images of {height} x {width} pixels. Of {len(images)} "
        "images the largest relative difference is "
        + " and ".join(f"{value:.1e} in {name}" for name, value in differences.items())
        + f". Its offset, the threshold on score_samples, is {model.offset_:.6g}"
    )
    return 0
