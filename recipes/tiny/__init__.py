"""Recipe of the embedded model ``tiny``: renderer, joint training, ablations."""
