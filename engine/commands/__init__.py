"""The sub-commands of `likeness`, one module per stage; `engine.cli` puts them together.

The way of the data: before learning (`look`), learning (`learn`), concept files (`files`), drawing (`draw`),
measuring what the project claims (`bench`). A command reads its options, makes one call into the engine and
says what came of it; `apps` are the groups the commands hang in, `options` puts long option lists in groups.
"""
