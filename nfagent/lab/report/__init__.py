"""`nfagent lab report`: what a latency run found, as page, plots and a verdict in words.

    folder      writes a report: page, plots and samples
    page        the page, from style.css and markup; it loads nothing
    plots       the plots; drawing has their look
    verdict     whether netfilter takes effect within twice eBPF's time; summary has it in words
    comparison  two runs next to each other
    statistics  quantiles, ratios of quantiles, and how sure both are
    rates       throughput, connections, CPU and memory
    values      verdicts and comparisons for `-o json`
    words       figures and names as the report words them; places has scenarios and sizes

Of the lab it may import `latency.samples` alone, so a report needs neither root nor a lab. All but `folder`, `page`,
`plots` and `drawing` are pure. Guarantees: the same samples give the same files; a figure that isn't known is never
shown as one.
"""
