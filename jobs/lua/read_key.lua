-- The record of a key, and that of its account: every request with a key reads both.
local id = ARGV[1]
local record = redis.call('GET', key('api_key', id))
local is_read, fields = pcall(cjson.decode, record or '')
local account = is_read and type(fields) == 'table' and fields.account
return {'ok', record, type(account) == 'string' and redis.call('GET', key('account', account))}
