"""Video data: WebDataset shards of mp4 and captions, written, inspected and read."""
