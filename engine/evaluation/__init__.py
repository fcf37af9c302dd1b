"""Numbers and sheets that say how well a concept was learned.

The way of the data: judges look at pictures (`backends`; on the Miniature `people` and `portraits`),
`metrics` and `measure` make numbers and words of it, `stopping` lets a run end by them. They are shown as
sheets, grids, plots and pages (`sheet`, `grid`, `gallery`, `plots`, `loss_plot`, `page`). `claims` asks
whether the papers are right, `card` and `learnability` what the Miniature can tell, `speed` what a step
costs.
"""
