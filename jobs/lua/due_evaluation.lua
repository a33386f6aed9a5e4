-- The janitor found an evaluation that nobody works on: not to be looked at again for a while, longer each time, since a
-- message is about to be sent.
local id, pause_ms, longest_ms = unpack(ARGV)
if get(id, 'evaluation_state') ~= 'pending' then
  redis.call('ZREM', key('evaluations'), id)
  return {'none'}
end
local due = tonumber(redis.call('ZSCORE', key('evaluations'), id) or '0')
if due > NOW then return {'none'} end
local sent = redis.call('HINCRBY', key('job', id), 'evaluation_sent', 1)
set(id, 'evaluation_holder', '')
redis.call('ZADD', key('evaluations'), NOW + math.min(tonumber(longest_ms), tonumber(pause_ms) * 2 ^ (sent - 1)), id)
return reply_job(id)
