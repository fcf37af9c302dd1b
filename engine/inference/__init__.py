"""Drawing with what was learned.

The way of the data: concept files go into a base and prompts become pictures (`generate`; words that follow
the noise level by `staged_embedding`, people from pictures by `id_adapter`, regions by `refocus` and
`refocused`). Pictures may then be finished: faces found (`onlookers`), restored or drawn again (`restore`,
`restorers`, `detail`), enlarged (`upscale`). What people type becomes these calls in `id_pictures`,
`refocus_options` and `restore_options`.
"""
