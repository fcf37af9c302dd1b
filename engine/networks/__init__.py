"""Plain torch used by both training and inference.

Tensors in, tensors out: no settings, no pictures on disk, no diffusion library. Drawing begins in `sampling`;
PersonaMagic's words are `mapper`, `stages` and `staged`, MasterWeaver's people `id_encoder`, `id_attention`
and `identified`; `lora` and `token_tables` put into networks what was learned.
"""
