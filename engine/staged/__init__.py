"""Words that change with the noise level (PersonaMagic): stages, mapper, where they stand in a prompt, their files."""
