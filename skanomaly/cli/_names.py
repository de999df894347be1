"""Names that users choose from."""

DETECTORS = ("patchcore", "padim", "spade", "regad", "global_local")
FROM_PICTURES = ("regad", "global_local")  # they take pictures instead of features
