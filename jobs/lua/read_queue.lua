-- What the ETAs of some jobs are computed from: mean duration, live workers, and each position in the queue from 0.
local reply = {'ok', redis.call('GET', key('mean_run_ms')), redis.call('ZCOUNT', key('workers'), '(' .. NOW, '+inf')}
for _, id in ipairs(ARGV) do reply[#reply + 1] = redis.call('ZRANK', key('waiting'), id) end
return reply
