-- Renew the lease; with a stage, store the progress.
local id, fence, worker, lease_ms, stage, progress, delivery_id = unpack(ARGV)
if lease_state(id, fence, worker, '') ~= 'held' then return {'lost'} end
redis.call('ZADD', key('leases'), NOW + tonumber(lease_ms), id)
if stage ~= '' then tell_progress(id, stage, progress, delivery_id) end
return {'ok', get(id, 'cancel_requested')}
