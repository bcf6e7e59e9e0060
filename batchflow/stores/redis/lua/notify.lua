-- notify: gives an event to all that wait for it, or to the one run, now or once it waits; the ids of those that got it.
verbs.notify = function(event, data, run) return waiting.notify(event, data, opt(run)) end
