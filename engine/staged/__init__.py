"""Words that change with the noise level (PersonaMagic): stages, mapper, places in a prompt, files."""
