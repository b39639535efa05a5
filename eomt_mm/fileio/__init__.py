"""Reading of files that nobody vouches for: sizes and checksums are checked before anything is decoded. No host."""
