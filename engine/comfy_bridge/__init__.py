"""All that touches ComfyUI: its folders, its MODEL, CLIP and VAE, its progress bar and its cancel button.

What ComfyUI may change is reached through few, old functions, and asked for by feature, never by version.

The way of the data: IMAGE and MASK become pictures and concept folders (`pictures`, `masks`); MODEL, CLIP and
VAE become plain weights (`weights`), on which a run learns (`run`, `adapter_training`). What was learned goes
back onto MODEL and CLIP (`words`, `staged`, `identity`, `refocus`), and pictures back into IMAGE (`sampling`,
`restore`, `grid`). `folders` knows where files lie, `miniature` builds our own MODEL, CLIP and VAE.
"""
