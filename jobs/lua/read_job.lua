-- A job, and what its ETA is computed from: position in the queue from 0, mean duration, live workers.
local id = ARGV[1]
return {
  'ok',
  redis.call('HGETALL', key('job', id)),
  redis.call('ZRANK', key('waiting'), id),
  redis.call('GET', key('mean_run_ms')),
  redis.call('ZCOUNT', key('workers'), '(' .. NOW, '+inf'),
}
