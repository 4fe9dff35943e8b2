"""The ring kind: streams of frames in a fixed number of slots."""
