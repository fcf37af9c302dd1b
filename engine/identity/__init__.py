"""The identity adapter, whole (MasterWeaver): encoder, attention, files, conditioning, reference pictures."""
