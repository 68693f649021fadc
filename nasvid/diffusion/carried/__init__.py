"""The code that exported folders carry: it imports torch, diffusers, transformers and einops alone.

nasvid itself samples by these very functions, so an export's frames are nasvid's.
"""
