"""Back ends that find words in pictures; `engine.data.segment` lists them and loads one by its name.

Each takes pictures and words and gives masks, by the interface in `base`.
"""
