"""What a plant installs and tries: units, examples, demonstrations."""
