-- How long the keys of a run live. The loader fills in both lists from the table in keys.py.
--!keys run:*

-- All keys of a run: they expire some time after its end.
function lifetimes.retained() return {--[[retained]]} end

-- Keys that are deleted when it completes: a completed run needs only its result and its logs.
function lifetimes.spent() return {--[[spent]]} end
