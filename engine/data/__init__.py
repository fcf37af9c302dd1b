"""Pictures, masks and concepts on their way from folders to training.

The way of the data: files are read (`pictures`) and belong to a concept in its folder (`concepts`); masks are
found (`segment` with the back ends of `segmenters`, `faces` with `alignment`), mended (`masks`) and shown
(`overlays`), pictures are appraised (`quality`). A method then trains on crops in batches (`examples`,
`augment`), of one size or in `buckets` of several (`ragged`). Identity adapters learn from many people
instead: `shard_sources` fill `shards`, out of which `identity_examples` come. `helpers` says which helper
models are needed and where they come from.
"""
