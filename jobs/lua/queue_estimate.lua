-- Queue position of a job, mean duration and number of live workers, in one step.
local id = ARGV[1]
local rank = redis.call('ZRANK', key('waiting'), id)
local live = redis.call('ZCOUNT', key('workers'), '(' .. NOW, '+inf')
return {'ok', rank and rank + 1 or 0, redis.call('GET', key('mean_run_ms')) or '', live}
