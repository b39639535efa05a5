"""What the page allows. Imports nothing: the command line states it before torch is imported."""

MAX_PIXELS = 50_000_000  # of an image file
# Larger images are shrunk to this before the model: post-processing holds up to 64 bytes a pixel.
MAX_SEGMENTED = 4_000_000
MAX_RATIO = 16  # of an image's sides; short sides are enlarged to the model's size, and long ones with them
TIME_LIMIT = 120.0  # seconds
