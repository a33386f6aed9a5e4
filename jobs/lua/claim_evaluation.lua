-- A worker takes over the pending evaluation of a job that has succeeded: nobody holds it, or the lease has expired. The
-- token makes a repeated call (lost reply) find its own lease.
local id, worker, lease_ms, token = unpack(ARGV)
if get(id, 'evaluation_state') ~= 'pending' then return {'none'} end
local due = tonumber(redis.call('ZSCORE', key('evaluations'), id) or '0')
local holder, held_by_token = unpack(redis.call('HMGET', key('job', id), 'evaluation_holder', 'evaluation_token'))
if held_by_token ~= token then
  if holder ~= '' and due > NOW then return {'none'} end
  hold_evaluation(id, worker, token, lease_ms)
end
return {'ok', tonumber(get(id, 'evaluation_fence')), tonumber(get(id, 'evaluation_attempt'))}
