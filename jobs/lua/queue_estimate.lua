-- What a queued job's callers want to know, in one step: its place in the line, and what an ETA is made of.
local id = ARGV[1]
local rank = redis.call('ZRANK', key('waiting'), id)
local live = redis.call('ZCOUNT', key('workers'), '(' .. NOW, '+inf')
return {'ok', rank and rank + 1 or 0, redis.call('GET', key('mean_run_ms')) or '', live}
