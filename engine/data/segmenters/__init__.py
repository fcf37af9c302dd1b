"""Back ends that find words in pictures; `engine.data.segment` lists them and loads one by its name."""
